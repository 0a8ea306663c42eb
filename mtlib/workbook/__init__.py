"""The workbook: notebooks executed with parameters, the runs they need, and the pipeline that runs it all."""
