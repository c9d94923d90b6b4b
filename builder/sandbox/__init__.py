"""The RUN sandbox: probing, specification, launcher and init."""
