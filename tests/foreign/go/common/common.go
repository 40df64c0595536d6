// Package common is what the Go programs share: the steps to do, and replies as JSON lines.
package common

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"time"
)

const ReplyTimeout = time.Minute

type Record struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}

// A Step sends its records to a topic. Where it names a topic of replies, it waits for one reply to
// each record; the correlation ID is the number of the record.
type Step struct {
	Topic   string   `json:"topic"`
	Replies string   `json:"replies"`
	Setting bool     `json:"setting"`
	Records []Record `json:"records"`
}

type Plan struct {
	Bootstrap string `json:"bootstrap"`
	Steps     []Step `json:"steps"`
}

func Read() (plan Plan) {
	text, err := os.ReadFile(os.Args[1])
	Check(err)
	Check(json.Unmarshal(text, &plan))
	return plan
}

// Headers of one record, by name.
func (step Step) Headers(record int) map[string][]byte {
	if step.Replies == "" {
		return nil
	}
	return map[string][]byte{
		"kafka_replyTopic":    []byte(step.Replies),
		"kafka_correlationId": []byte(strconv.Itoa(record)),
	}
}

// Replies prints each reply once, and knows when all are there.
type Replies struct {
	step int
	seen map[int]bool
	all  int
	end  time.Time
}

func (step Step) Expect(number int) *Replies {
	return &Replies{number, map[int]bool{}, len(step.Records), time.Now().Add(ReplyTimeout)}
}

func (replies *Replies) Take(headers map[string][]byte, value []byte) {
	record, err := strconv.Atoi(string(headers["kafka_correlationId"]))
	if err != nil || replies.seen[record] {
		return
	}
	replies.seen[record] = true
	var code *string
	if raw, ok := headers["read-states-error"]; ok {
		text := string(raw)
		code = &text
	}
	line, err := json.Marshal(map[string]any{
		"step": replies.step, "record": record, "error": code, "reply": string(value),
	})
	Check(err)
	fmt.Println(string(line))
}

// Missing says whether replies are still to come.
func (replies *Replies) Missing() bool {
	if time.Now().After(replies.end) {
		Check(fmt.Errorf("%d of %d replies came", len(replies.seen), replies.all))
	}
	return len(replies.seen) < replies.all
}

func Check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
