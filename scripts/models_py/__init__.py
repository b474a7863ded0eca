"""Parts of make_models.py: the small models and golden files that the tests of the inference crate read."""
