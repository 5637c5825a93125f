"""`lit-tune data inspect`: statistics of a data set, from headers and captions, as JSON, as text and as one page."""
