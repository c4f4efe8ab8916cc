// Load on aorist's gateways, from 127.0.0.1 only, bounded in time. Prints "measuring" and "measured" around the time that counts, then JSON.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"os"
	"sort"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

type load struct {
	mode                                string
	callers, conns, batch, window, axes int
	arms                                int
	rate                                float64
	start, end                          time.Time
}

// latencies of one caller, in microseconds, of what was answered while it was measured.
type latencies struct {
	load  *load
	count int
	us    []int64
	at    []int64
}

func (s *latencies) add(began time.Time, count int) {
	now := time.Now()
	if now.After(s.load.start) && now.Before(s.load.end) {
		s.count += count
		s.us = append(s.us, now.Sub(began).Microseconds())
		s.at = append(s.at, now.UnixMicro())
	}
}

func main() {
	l := load{}
	flag.StringVar(&l.mode, "mode", "report", "report | stream | get")
	flag.IntVar(&l.callers, "callers", 1, "calls at once, or streams")
	flag.IntVar(&l.conns, "conns", 1, "connections they share")
	flag.IntVar(&l.batch, "batch", 100, "stream: samples in a batch")
	flag.IntVar(&l.window, "window", 32, "stream: batches that may be unacknowledged")
	flag.IntVar(&l.axes, "axes", 6, "of each sample")
	flag.IntVar(&l.arms, "arms", 1000, "different ones")
	flag.Float64Var(&l.rate, "rate", 0, "calls per second in all; 0: as fast as they are answered")
	address := flag.String("addr", "", "HOST:PORT, of this machine")
	warm := flag.Duration("warm", time.Second, "before it is measured")
	measured := flag.Duration("for", 5*time.Second, "while it is measured")
	samples := flag.Bool("samples", false, "print every latency with its time")
	flag.Parse()
	if host, _, err := net.SplitHostPort(*address); err != nil || !net.ParseIP(host).IsLoopback() {
		fmt.Fprintln(os.Stderr, "addr must be a loopback address with its port")
		os.Exit(2)
	}
	l.start = time.Now().Add(*warm)
	l.end = l.start.Add(*measured)
	all, failed := l.run(*address)
	report(all, failed, *measured, *samples)
}

func (l *load) run(address string) ([]*latencies, []error) {
	ctx, cancel := context.WithDeadline(context.Background(), l.end.Add(10*time.Second))
	defer cancel()
	conns := make([]*grpc.ClientConn, l.conns)
	for index := range conns {
		conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithDefaultCallOptions(grpc.ForceCodec(raw{})))
		if err != nil {
			return nil, []error{err}
		}
		conns[index] = conn
	}
	time.AfterFunc(time.Until(l.start), func() { fmt.Println("measuring") })
	time.AfterFunc(time.Until(l.end), func() { fmt.Println("measured") })
	var waiting sync.WaitGroup
	var guard sync.Mutex
	var failed []error
	all := make([]*latencies, l.callers)
	for caller := range l.callers {
		all[caller] = &latencies{load: l}
		waiting.Go(func() {
			var err error
			if l.mode == "stream" {
				err = l.stream(ctx, conns[caller%l.conns], all[caller])
			} else {
				err = l.unary(ctx, conns[caller%l.conns], caller, all[caller])
			}
			if err != nil {
				guard.Lock()
				failed = append(failed, err)
				guard.Unlock()
			}
		})
	}
	waiting.Wait()
	time.Sleep(time.Until(l.end.Add(20 * time.Millisecond))) // callers that failed must not end it early
	return all, failed
}

func report(all []*latencies, failed []error, measured time.Duration, samples bool) {
	var us []int64
	var pairs [][2]int64
	count := 0
	for _, one := range all {
		count += one.count
		us = append(us, one.us...)
		if samples {
			for index := range one.us {
				pairs = append(pairs, [2]int64{one.at[index], one.us[index]})
			}
		}
	}
	sort.Slice(us, func(a, b int) bool { return us[a] < us[b] })
	at := func(share float64) float64 {
		if len(us) == 0 {
			return -1
		}
		return float64(us[min(len(us)-1, int(share*float64(len(us))))]) / 1000
	}
	first := ""
	if len(failed) > 0 {
		first = failed[0].Error()
	}
	_ = json.NewEncoder(os.Stdout).Encode(map[string]any{
		"count": count, "seconds": measured.Seconds(), "p50_ms": at(.5), "p90_ms": at(.9), "p99_ms": at(.99),
		"max_ms": at(1), "errors": len(failed), "error": first, "samples": pairs,
	})
}
