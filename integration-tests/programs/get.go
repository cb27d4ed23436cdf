// Fetches each URL as Go's own client does; says the protocol and the body, or what went wrong.
package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
)

func main() {
	for _, url := range os.Args[1:] {
		answer, err := http.Get(url)
		if err != nil {
			fmt.Println(err)
			continue
		}
		body, err := io.ReadAll(answer.Body)
		fmt.Println(answer.Proto, string(body), err)
	}
}
