"""Hold the desired state against the observed state. Pure."""
