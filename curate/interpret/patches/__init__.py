"""Which patches of an image matter: ranked, masked, and looked at again."""
