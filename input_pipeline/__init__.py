"""Files in, host batches out: data sets, their protocols, sampling and decoding; knows no model."""
