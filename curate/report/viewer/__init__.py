"""A local web application to look at a run and choose from it."""
