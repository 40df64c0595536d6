// Reads each line into the model of its kind, and writes the model as a line.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"

	"readstates/models/models"
)

func main() {
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var kind struct{ Error json.RawMessage }
		check(json.Unmarshal(lines.Bytes(), &kind))
		var model any = &models.Reply{}
		if kind.Error != nil {
			model = &models.ErrorReply{}
		}
		decoder := json.NewDecoder(bytes.NewReader(lines.Bytes()))
		decoder.DisallowUnknownFields()
		check(decoder.Decode(model))
		text, err := json.Marshal(model)
		check(err)
		fmt.Println(string(text))
	}
	check(lines.Err())
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
