"""Loading, importing and saving models: everything below the stages that needs a model's weights."""
