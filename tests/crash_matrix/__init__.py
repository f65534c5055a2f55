"""The crash matrix: moves of keys under writers, with one fault each; see ``__main__``."""
