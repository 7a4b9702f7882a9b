"""Estimated people against annotated ones: COCO's metrics, and a diagnosis of the errors."""
