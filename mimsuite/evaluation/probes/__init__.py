"""Probes of frozen features: neighbours, linear, attentive and few-shot heads, and label-free measures."""
