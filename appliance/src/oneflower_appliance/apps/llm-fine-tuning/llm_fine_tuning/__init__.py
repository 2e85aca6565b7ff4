"""Federated fine-tuning of a language model with LoRA (Hu et al., 2022): only the adapters are sent."""
