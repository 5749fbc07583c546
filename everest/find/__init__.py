"""Where something happens in hours of video: what ``everest find`` is made of."""
