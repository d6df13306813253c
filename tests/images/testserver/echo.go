package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"strconv"
	"time"
)

// runEcho sends every TCP line and every UDP datagram back, with the pod's name
// in front.
func runEcho(ctx context.Context, args []string) error {
	var port int
	if err := parse("echo", args, func(fs *flag.FlagSet) { fs.IntVar(&port, "port", 9090, "port to echo on") }); err != nil {
		return err
	}
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	addr := ":" + strconv.Itoa(port)
	tcp, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	udp, err := net.ListenPacket("udp", addr)
	if err != nil {
		return errors.Join(err, tcp.Close())
	}
	ended := make(chan error, 2)
	go func() { ended <- echoTCP(tcp, host) }()
	go func() { ended <- echoUDP(udp, host) }()
	select {
	case err = <-ended:
	case <-ctx.Done():
	}
	return errors.Join(err, tcp.Close(), udp.Close())
}

func echoTCP(l net.Listener, host string) error {
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			for s := bufio.NewScanner(c); s.Scan(); {
				if _, err := fmt.Fprintf(c, "%s %s\n", host, s.Text()); err != nil {
					return
				}
			}
		}()
	}
}

func echoUDP(c net.PacketConn, host string) error {
	b := make([]byte, 64<<10)
	for {
		n, from, err := c.ReadFrom(b)
		if err != nil {
			return err
		}
		if _, err := c.WriteTo(append([]byte(host+" "), b[:n]...), from); err != nil {
			return err
		}
	}
}

// runSay sends one line to an echo and prints what comes back.
func runSay(ctx context.Context, args []string) error {
	fs := flag.NewFlagSet("say", flag.ContinueOnError)
	network := fs.String("network", "tcp", "tcp or udp")
	limit := fs.Duration("timeout", time.Second, "time it may take")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if fs.NArg() != 1 {
		return fmt.Errorf("usage: testserver say [flags] HOST:PORT")
	}
	ctx, cancel := context.WithTimeout(ctx, *limit)
	defer cancel()
	c, err := (&net.Dialer{}).DialContext(ctx, *network, fs.Arg(0))
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(*limit)); err != nil {
		return err
	}
	if _, err := fmt.Fprintln(c, "hi"); err != nil {
		return err
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	fmt.Print(line)
	return err
}
