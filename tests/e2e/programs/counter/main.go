// A child in Go: it counts its calls, and hands the count over where it is moved.
package main

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
)

func main() {
	count := 0
	handover := os.Getenv("HUB_HANDOVER_FILE")
	if state, err := os.ReadFile(handover); err == nil {
		count, _ = strconv.Atoi(strings.TrimSpace(string(state)))
	}
	listener, err := net.Listen("unix", os.Getenv("HUB_SOCKET"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	http.HandleFunc("/call", func(answer http.ResponseWriter, _ *http.Request) {
		count++
		answer.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(answer, `{"count": %d, "user": %d, "in": "go"}`, count, os.Getuid())
	})
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	go http.Serve(listener, nil)
	<-stop
	if err := os.WriteFile(handover, []byte(strconv.Itoa(count)), 0o600); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
}
