"""`make image`: builds the worker's image and tries it in containers, on the local stack."""
