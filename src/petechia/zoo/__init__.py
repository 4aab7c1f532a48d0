"""A set of clean and backdoored models on which detectors are tuned and evaluated."""
