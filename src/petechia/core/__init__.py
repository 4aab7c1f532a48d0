"""What every room needs: errors, settings, files, randomness, threads, devices. It imports no other room."""
