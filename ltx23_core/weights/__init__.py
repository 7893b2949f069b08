"""Overlay to tensors: byte ranges read straight to the device, with LoRAs fused on the way."""
from ..overlay.source import TensorRef
from .count import ReadCounter
from .load import load_module
from .lora import LoraUse, lora_pairs
from .reader import RangeReader, read_tensors

__all__ = ["LoraUse", "RangeReader", "ReadCounter", "TensorRef", "load_module", "lora_pairs", "read_tensors"]
