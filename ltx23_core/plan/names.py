"""Names that a user chooses among where the room that knows them needs torch; tests keep them equal to that room's."""
ATTENTION = ("auto", "cudnn", "flash", "efficient", "math")  # `ops.attention.BACKENDS`
DTYPES = ("auto", "bf16", "fp32")                            # `runtime.device.DTYPES`
