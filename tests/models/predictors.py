"""A predictor of features as configs hold it, tiny."""

CONV = {
    "kind": "conv",
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "intermediate_size": 8,
    "features": 12,
    "layers": [1],
    "combine": "mean",
    "pixels": False,
}
