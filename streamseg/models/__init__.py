"""Models: their cards, and the ones that come with the package."""
