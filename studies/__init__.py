"""Questions about the papers that no table asks: one script for each study."""
