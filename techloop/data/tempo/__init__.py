"""How fast a recording is and where its bars begin; `estimate.find_tempo` puts it all together."""
