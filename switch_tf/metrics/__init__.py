"""The metrics of a run: logged, displayed, watched and tabulated."""
