"""The Graph: operations on named values with real layouts, its text form and its verifier. No torch."""
