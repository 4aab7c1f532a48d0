"""Known defences against backdoors, on the models and images of a zoo; `python -m benchmarks.peers ZOO` runs them."""
