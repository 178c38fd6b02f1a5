//! Ids of reservations, as subscribers see them.

use gantry_queue::Reservation;
use gantry_queue_store::DeliveryId;

/// The id of a reservation as subscribers see it.
pub(super) fn reservation_id(id: DeliveryId, reservation: Reservation) -> String {
    format!("{id}-{}", reservation.0)
}

/// The delivery and the reservation that an id names.
pub(crate) fn parse_reservation_id(text: &str) -> Option<(DeliveryId, Reservation)> {
    let (id, reservation) = text.split_once('-')?;
    Some((DeliveryId(id.parse().ok()?), Reservation(reservation.parse().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_of_a_reservation_names_the_delivery() {
        let id = reservation_id(DeliveryId(7), Reservation(3));
        assert_eq!(parse_reservation_id(&id), Some((DeliveryId(7), Reservation(3))));
        assert_eq!(parse_reservation_id("7"), None);
    }
}
