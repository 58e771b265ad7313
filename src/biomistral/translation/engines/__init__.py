"""Who can translate, each behind the same interface."""
