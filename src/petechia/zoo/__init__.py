"""A set of models, clean and backdoored, on which detectors are tuned and judged."""
