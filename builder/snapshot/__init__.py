"""Trees on disk that a RUN step sees, and the change it made."""
