"""The main job: a dark RAW photo becomes a clean, bright picture."""
