"""The checks of `kling-receiver doctor`, one file per subject. ``examination`` runs them."""
