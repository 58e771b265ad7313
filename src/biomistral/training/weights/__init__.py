"""What is trained: master weights, whole or in parts, adapters, and their AdamW."""
