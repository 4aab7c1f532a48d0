"""Does a model carry a backdoor? No triggered image is at hand."""
