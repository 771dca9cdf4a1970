//! Pictures and clips around the models: decode, tile, encode.
