"""Ground floor: errors, reasons, units, options, and the versioned JSON codec. Imports nothing of ours above it."""
