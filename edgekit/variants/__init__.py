"""Further files of a bundle's network, in other precisions: each a function from a bundle to a VariantDraft."""
