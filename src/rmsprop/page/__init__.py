"""The page that shows how RMSprop works: plain JavaScript modules in static/, bundled into one HTML file."""
