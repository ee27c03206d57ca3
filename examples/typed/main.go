// Typed calls Python through a client that pypoolgen wrote: no JSON, no names in strings, and the
// compiler knows both sides. After an edit of worker.py, `go generate ./...` writes the client
// anew.
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"os"
	"time"

	"github.com/pypool/pypool"
	"github.com/pypool/pypool/examples/typed/shop"
)

//go:generate go run github.com/pypool/pypool/cmd/pypoolgen -script worker.py -package shop -o shop/shop_gen.go

func main() {
	if err := run(context.Background(), os.Stdout); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, out io.Writer) error {
	cfg := pypool.Development()
	cfg.Script = "worker.py"
	cfg.WatchScripts = true // for the desk: an edit of worker.py is live within a second
	pool, err := pypool.New(ctx, cfg)
	if err != nil {
		return err
	}
	defer pool.Close()
	client := shop.New(pool)

	quote, err := client.Quote(ctx, shop.QuoteArgs{Order: shop.Order{
		Lines:    []shop.Line{{Sku: "tea", PriceCents: 450, Quantity: shop.Ptr(int64(2))}, {Sku: "cup", PriceCents: 1200}},
		PlacedAt: shop.DateTime{Time: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)},
		Shipping: shop.Ptr(shop.ShippingExpress),
		Coupon:   shop.Ptr("SPRING"),
	}})
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%.2f EUR with %v, arrives %s\n", float64(quote.TotalCents)/100, quote.Discounts, quote.ArrivesAt.Format(time.DateOnly))

	for step, err := range client.Track(ctx, shop.TrackArgs{OrderID: "A-17", FromStep: 2}) {
		if err != nil {
			return err
		}
		fmt.Fprintln(out, step)
	}
	return nil
}
