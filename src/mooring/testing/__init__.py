"""Fakes that ship with the platform, for its tests and those of extensions. The product never imports them."""
