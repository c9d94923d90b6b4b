"""The OCI vocabulary: digests, descriptors, configs, manifests, references."""
