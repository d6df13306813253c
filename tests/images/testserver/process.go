package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"time"
)

// runLinger says "up", and when told to stop says "stopping", takes its time,
// says "stopped" and ends with 0. With -file it writes these words there too.
func runLinger(ctx context.Context, args []string) error {
	var linger time.Duration
	var file string
	if err := parse("linger", args, func(fs *flag.FlagSet) {
		fs.DurationVar(&linger, "for", 3*time.Second, "time taken to stop")
		fs.StringVar(&file, "file", "", "file to write to as well")
	}); err != nil {
		return err
	}
	say := func(word string) error {
		fmt.Println(word)
		if file == "" {
			return nil
		}
		f, err := os.OpenFile(file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintln(f, word); err != nil {
			f.Close()
			return err
		}
		return f.Close()
	}
	if err := say("up"); err != nil {
		return err
	}
	<-ctx.Done()
	if err := say("stopping"); err != nil {
		return err
	}
	<-time.After(linger)
	return say("stopped")
}

// runMemory takes and touches memory, then waits to be stopped.
func runMemory(ctx context.Context, args []string) error {
	var mib int
	if err := parse("memory", args, func(fs *flag.FlagSet) { fs.IntVar(&mib, "mib", 256, "MiB to take") }); err != nil {
		return err
	}
	held := make([][]byte, 0, mib)
	for range mib {
		b := make([]byte, 1<<20)
		for i := 0; i < len(b); i += 4096 {
			b[i] = 1
		}
		held = append(held, b)
	}
	fmt.Println("holding", len(held), "MiB")
	<-ctx.Done()
	fmt.Println("held", len(held), "MiB")
	return nil
}
