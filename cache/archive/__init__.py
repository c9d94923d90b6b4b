"""Layer archives: tar streams, trees and the confined paths between them."""
