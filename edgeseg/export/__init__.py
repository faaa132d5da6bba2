"""From torch to bundles: reading checkpoints, writing ONNX, checking one against the other."""
