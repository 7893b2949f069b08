"""Golden cases: video_vae."""
