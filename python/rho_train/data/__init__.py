"""The loaders and corruptions of the evidence sets."""
