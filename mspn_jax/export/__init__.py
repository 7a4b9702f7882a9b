"""Files to deploy: StableHLO and ONNX."""
