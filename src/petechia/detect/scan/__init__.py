"""Was a collection of images tampered with?"""
