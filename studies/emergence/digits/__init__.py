"""Digit images and spoken digits, as the label moves from the digit to the speaker."""
