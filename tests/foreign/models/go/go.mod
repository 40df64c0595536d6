module readstates/models

go 1.24
