"""Everything that knows Ray, DeepSpeed or MLflow: sessions, sharded runs, training, tracking."""
